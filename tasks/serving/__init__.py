"""Serves an exported model by HTTP: requests within limits, batches, a page, new models without a pause."""
