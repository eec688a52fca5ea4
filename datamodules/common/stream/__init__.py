"""Webdataset shards that are streamed: local files, http(s) and the output of commands."""
