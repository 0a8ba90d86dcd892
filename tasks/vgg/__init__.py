"""VGG16: weights, backbone, engines, features, heads, strategies, training. Knows nothing of reports."""
