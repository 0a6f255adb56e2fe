"""What is taken in from MDM servers: which packages are new, and how their bytes come."""
