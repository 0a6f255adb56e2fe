"""The configured MDM servers: what an admin sets, how each is doing, and its driver."""
