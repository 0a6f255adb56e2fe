"""MDM servers and this network as one.

bridge      everything below, made and tied together
driver      what is asked of an MDM, whatever its kind
servers/    the configured servers: what an admin sets, how each is doing
syncing     one round: list, take in, mirror out, distribution points; `watching` says when
versions    every version of a package that was seen, to know its bytes again in an MDM
intake/     what is taken in: which packages are new, and how their bytes come
mirror/     what is mirrored out: a package record for every package
points/     the nodes as distribution points
hooks/      webhooks that come in
jamf/       a client for Jamf Pro, usable alone
jamf_driver/  the driver for Jamf Pro, on that client
"""
