"""MDM servers: the driver protocol and the drivers. None are built yet; the appliance runs without any."""
