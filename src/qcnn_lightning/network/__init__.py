"""The classifier as a neural network: representation, batch norm, 1x1 convolution, product pooling (eq. 1-10)."""
