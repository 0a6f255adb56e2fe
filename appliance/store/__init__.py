"""Keeping things: the metadata store's port with two implementations, and the files that hold the bytes.

`ports` says what a store does, `schema` which collections and indexed fields exist, `sqlite` and `mongo` do
it, `opening` chooses between them, `archive` moves a node from one to the other. `filesystem`, `blobs` and
`partial` keep the bytes. Nothing here knows why anything is kept.
"""
