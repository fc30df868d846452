"""Images: where they come from, in which order their pixels enter the tree, how they are batched."""

from qcnn_lightning.data.datamodule import ImageDataModule as ImageDataModule
