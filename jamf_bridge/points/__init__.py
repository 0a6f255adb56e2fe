"""The nodes as distribution points in MDM servers."""
