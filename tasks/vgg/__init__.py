"""VGG16: weights, backbone, engines, features, heads, strategies, training. It imports nothing from reports."""
