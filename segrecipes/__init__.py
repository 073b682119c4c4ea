"""Recipes for semantic segmentation with Composer, Streaming and mmsegmentation."""

__version__ = '0.1.0'
