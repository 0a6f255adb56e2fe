"""What is mirrored out to MDM servers: a package record for every package."""
