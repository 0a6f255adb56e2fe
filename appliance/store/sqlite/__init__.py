"""The store in one SQLite file: the default when no database server is configured.

A table for each collection: `_id`, `_rev`, the declared fields as typed columns with an index each, and the
whole document as BSON in `_body`, so that types survive exactly and no JSON functions are needed. `_rev` and
the sequence number are kept in their columns only. The file is in WAL mode with `synchronous=FULL`: a write
that returned is on the disk. One thread writes (`writer`) and commits all waiting writes together; a few
threads read. Several processes may share the file, on a local disk.
"""
