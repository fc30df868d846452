"""The studies of arXiv 2103.11785, made with qcnn_lightning as any reader could: README.md is their page."""
