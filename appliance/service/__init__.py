"""The use cases: what the product does, whoever asks for it and over whatever door.

How a package travels through these modules:

    uploads      takes bytes, hashes them while they arrive, commits the blob
    packages     writes the signed record: publish, replace, change, withdraw
    holdings     brings the bytes here into line with the record: serve, fetch, keep, release
    replication  tells peers of our change feed, reads theirs
    intake       verifies the records that peers pass on, and keeps those that win
    transfers    what is being brought here; `bringing` is the job, `fetcher` asks the sources,
                 `frontier` hashes the whole file behind them
    peers        registrations, health, back-off, strikes
    coverage     notices when a package has reached every node;  vigil  watches disk and certificate

What happens is an event, written by `journal` with the change; `notifications` tells it to webhooks and mailboxes.

Nothing here knows of HTTP servers or databases: errors are those of `domain.errors`.
"""
