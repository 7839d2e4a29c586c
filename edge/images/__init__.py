"""An image's way into the network: find, decode, resize, NV12, calibrate; the demo's images."""

from __future__ import annotations

from edge.images.find import EXTENSIONS, class_names, open_images
from edge.images.items import ImageItem, ImageSet, sample

__all__ = ["EXTENSIONS", "ImageItem", "ImageSet", "class_names", "open_images", "sample"]
