"""Zorse's data preparation: two folders or tables of images in, WebDataset shards and a manifest out."""
