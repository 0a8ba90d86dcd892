"""VGG16: weights, backbone, features, heads, recipes, training. Knows nothing of reports."""
