"""Images: sources, packs, decoding, splits, shards, tf.data. Knows nothing of networks."""
