"""HTTP for people: pages over the same services as the admin API. None are built yet."""
