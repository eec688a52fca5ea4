"""What several data sets share: sampling, shards, preparation, cache."""
