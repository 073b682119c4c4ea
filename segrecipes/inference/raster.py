"""Pictures of the earth: GeoTIFFs of any size, read and labelled block by block; masks keep where on it they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from segrecipes.base.errors import UserError
from segrecipes.base.files import replaced
from segrecipes.datasets.row import Pixels
from segrecipes.evaluation.protocols import EvalProtocol
from segrecipes.evaluation.table import get_protocol
from segrecipes.evaluation.views import windows
from segrecipes.storage.channels import scaled

if TYPE_CHECKING:
    from segrecipes.inference.predictor import Predictor

# Tags by which a TIFF says where it is: ModelPixelScale, ModelTransformation, GeoKeyDirectory
GEOREFERENCE = (33550, 34264, 34735)
BLOCK = 8  # windows of a block's side: the ones at its edges are shown to the network again for the next block
NO_DATA = 255

Block = tuple[slice, slice]


def is_georeferenced(path: Path) -> bool:
    """Whether a file is a GeoTIFF, by its header alone; a damaged one is none."""
    if path.suffix.lower() not in ('.tif', '.tiff'):
        return False
    try:
        with path.open('rb') as file:
            header = file.read(8)
            header += file.read(8) if header[2] == 43 else b''  # BigTIFF
            tags = ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            return any(tag in tags for tag in GEOREFERENCE)
    except Exception:  # whatever stands there
        return False


def windows_of(protocol: EvalProtocol) -> EvalProtocol:
    """How a raster is shown: in its own resolution, by windows of the protocol's size."""
    return get_protocol('slide', protocol.size)


def label_raster(
    predictor: 'Predictor', path: Path, mask: Path | None = None, keep: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A GeoTIFF: as many bands as the network takes (more are left out, one is grey), their values as it takes them.

    Args:
        mask: a GeoTIFF to write, of class indices with their colours, in the same place; pixels without data are 255.
        keep: whether the labels are wanted here; without, memory holds a block at a time.

    Returns:
        (H, W) uint8 class indices, or (0, 0), and (num_classes,) pixels of each class, where there is data.

    Raises:
        UserError: rasterio is not installed, or the file is of another kind, or damaged.
    """
    rasterio = import_rasterio(path)
    protocol = windows_of(predictor.protocol)
    num_classes = predictor.card.num_classes
    if num_classes > NO_DATA:
        raise UserError(f'{path}: a mask of a GeoTIFF has room for {NO_DATA} classes, not for {num_classes}')
    counts = np.zeros(num_classes, np.int64)
    try:
        with rasterio.open(path) as source:
            bands = bands_of(source, path, predictor.card.pixels)
            size = source.height, source.width
            labels = np.empty(size if keep else (0, 0), np.uint8)
            with written(rasterio, source, mask, predictor.card.palette) as target:
                for block, region in blocks(size, protocol):
                    pixels, has_data = read(rasterio, source, bands, region, predictor.card.pixels)
                    inside = tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(block, region))
                    found = predictor.labels(pixels, protocol)[inside].astype(np.uint8)
                    found[~has_data[inside]] = NO_DATA
                    counts += np.bincount(found[found != NO_DATA], minlength=num_classes)
                    if keep:
                        labels[block] = found
                    if target is not None:
                        target.write(found, 1, window=rasterio.windows.Window.from_slices(*block))
    except rasterio.errors.RasterioError as error:
        raise UserError(f'damaged image {path}: {error}') from error
    return labels, counts


def import_rasterio(path: Path) -> Any:
    try:
        import rasterio
        import rasterio.windows
    except ImportError as error:
        raise UserError(f'{path} is a GeoTIFF, which needs another package: pip install rasterio') from error
    return rasterio


def bands_of(source: Any, path: Path, pixels: Pixels) -> list[int]:
    """The indices, from 1, of the bands that the network takes: the first so many, or a grey one as RGB."""
    kinds = set(source.dtypes)
    if pixels.values is None and kinds not in ({'uint8'}, {'uint16'}):
        raise UserError(f'{path}: its pixels are {", ".join(sorted(kinds))}. Legal: uint8, uint16')
    if pixels.channels == 3 and source.count < 3:
        return [1, 1, 1]
    if source.count < pixels.channels:
        raise UserError(f'{path}: it has {source.count} bands, and the network takes {pixels.channels}')
    return [*range(1, pixels.channels + 1)]


def read(rasterio: Any, source: Any, bands: list[int], region: Block, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) uint8 pixels of a region, and (H, W) bool, whether there is data."""
    window = rasterio.windows.Window.from_slices(*region)
    stored = source.read(bands, window=window).transpose(1, 2, 0)
    return np.ascontiguousarray(scaled(stored, pixels)), source.dataset_mask(window=window) > 0


@contextmanager
def written(rasterio: Any, source: Any, mask: Path | None, palette: Any) -> Iterator[Any]:
    """The mask to write to, where one is wanted; it takes its place when it is complete."""
    if mask is None:
        yield None
        return
    place = {'crs': source.crs, 'transform': source.transform, 'width': source.width, 'height': source.height}
    kind = {'driver': 'GTiff', 'count': 1, 'dtype': 'uint8', 'nodata': NO_DATA}
    layout = {'tiled': True, 'blockxsize': 256, 'blockysize': 256, 'compress': 'deflate', 'BIGTIFF': 'IF_SAFER'}
    with replaced(mask) as partial, rasterio.open(partial, 'w', **place, **kind, **layout) as target:
        target.write_colormap(1, {index: (*color, 255) for index, color in enumerate(palette)})
        yield target


def blocks(size: tuple[int, int], protocol: EvalProtocol) -> Iterator[tuple[Block, Block]]:
    """Of a raster of (H, W), each block, and the region of all windows that reach into it.

    A region's own windows are those of the whole raster, so the labels are as if it had been shown at once.
    """
    assert protocol.stride is not None
    side = BLOCK * protocol.size
    grids = [windows(length, (protocol.size, protocol.stride)) for length in size]
    for corner in product(*(range(0, length, side) for length in size)):
        block = tuple(slice(start, min(start + side, length)) for start, length in zip(corner, size))
        reached = [[w for w in grid if w[1] > part.start and w[0] < part.stop] for grid, part in zip(grids, block)]
        yield block, tuple(slice(axis[0][0], axis[-1][1]) for axis in reached)  # type: ignore[misc]
