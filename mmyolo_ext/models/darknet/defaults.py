"""What Darknet's networks have in common."""

# Darknet's epsilon, so that its weights give its numbers; its momentum, 0.01, was tuned for batches of 64
NORM_CFG = {'type': 'BN', 'momentum': 0.03, 'eps': 1e-5}
ACT_CFG = {'type': 'LeakyReLU', 'negative_slope': 0.1, 'inplace': True}
