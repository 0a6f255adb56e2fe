"""MDM servers: what every driver can do, what is taken in from them, what is mirrored out to them, and the drivers."""
