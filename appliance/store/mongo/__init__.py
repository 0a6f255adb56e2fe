"""The store in MongoDB, through Motor.

For nodes with several processes, and for houses that run MongoDB anyway.

Needs a replica set, if only of one member, because `batch` and sequences use transactions, and MongoDB 5.0.
Writes wait for the journal of the majority. A collection for each of the schema's, `ods_sequences` for the
last numbers given, and `ods_meta` for the feed id and the schema version.
"""
