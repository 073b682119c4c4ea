"""GeoTIFFs: labelled as if shown to the network at once, and never read at once; masks lie where they lie."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin

from segrecipes import Predictor, UserError, predict
from segrecipes.checkpoints.card import ModelCard
from segrecipes.checkpoints.export import export
from segrecipes.commands import cli
from segrecipes.evaluation.protocols import slide
from segrecipes.inference import raster
from segrecipes.inference.raster import blocks, is_georeferenced
from segrecipes.models.network import build_network
from segrecipes.models.spec import NetworkSpec

SIZE = 32
COLORS = ((200, 10, 20), (30, 200, 40), (50, 60, 200))
CARD = ModelCard(
    NetworkSpec('deeplabv3plus', 3, 'resnet18', head_channels=16),
    class_names=('water', 'field', 'town'),
    palette=COLORS,
    image_size=SIZE,
)
PLACE: dict[str, Any] = {'crs': 'EPSG:32633', 'transform': from_origin(399960, 5800020, 10, 10)}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = build_network(CARD.network, auxiliary=False).eval()
    head: Any = network.classifier
    torch.nn.init.normal_(head.conv_seg.weight)
    with torch.no_grad():
        head.conv_seg.bias -= network(torch.randn(1, 3, 64, 64)).mean(dim=(0, 2, 3))
    path = tmp_path_factory.mktemp('run') / 'best.safetensors'
    export(network, CARD, path, 'safetensors')
    return path


def picture(height: int, width: int, dtype: type = np.uint8, bands: int = 3) -> np.ndarray:
    """Coarse patches: (bands, H, W)."""
    coarse = np.random.default_rng(0).integers(0, 256, (bands, -(-height // 8), -(-width // 8)))
    full = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return (full * (257 if dtype == np.uint16 else 1)).astype(dtype)


def geotiff(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    bands, height, width = pixels.shape
    kind = {'driver': 'GTiff', 'count': bands, 'dtype': pixels.dtype, 'height': height, 'width': width}
    with rasterio.open(path, 'w', **kind, **PLACE, **options) as file:
        file.write(pixels)
    return path


@pytest.mark.parametrize(('height', 'width'), [(150, 215), (64, 64), (33, 300), (20, 90)])
def test_block_by_block_is_as_at_once(
    checkpoint: Path, tmp_path: Path, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster, 'BLOCK', 2)
    pixels = picture(height, width)
    found = predict(checkpoint, geotiff(tmp_path / 'a.tif', pixels), out=tmp_path / 'out')['a']
    expected = Predictor(checkpoint, protocol=slide(SIZE))(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    assert len(np.unique(expected)) > 1 or height < SIZE
    np.testing.assert_array_equal(found, expected)
    with rasterio.open(tmp_path / 'out/masks/a.tif') as mask:
        np.testing.assert_array_equal(mask.read(1), expected)
        assert (mask.crs, mask.transform) == (PLACE['crs'], PLACE['transform'])
        assert (mask.count, mask.dtypes, mask.nodata) == (1, ('uint8',), 255)
        assert [mask.colormap(1)[index][:3] for index in range(3)] == [*COLORS]
    shares = json.loads((tmp_path / 'out/shares.json').read_text())['images']['a']
    assert shares == {
        CARD.class_names[index]: pytest.approx(100 * (expected == index).mean(), abs=0.001)
        for index in np.unique(expected)
    }


@pytest.mark.parametrize('length', [1, 31, 32, 33, 63, 64, 65, 66, 149, 150, 300])
def test_blocks_cover_all_once(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, 'BLOCK', 2)
    covered = np.zeros((length, 47), int)
    for block, region in blocks(covered.shape, slide(SIZE)):
        covered[block] += 1
        assert all(r.start <= b.start and b.stop <= r.stop for b, r in zip(block, region))
        assert all(r.stop - r.start <= 4 * SIZE for r in region)
    assert (covered == 1).all()


def test_no_more_than_a_block_is_read(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, 'BLOCK', 2)
    path, read, shapes = geotiff(tmp_path / 'a.tif', picture(300, 300)), raster.read, []

    def noted(*arguments: Any) -> Any:
        pixels, has_data = read(*arguments)
        shapes.append(pixels.shape)
        return pixels, has_data

    monkeypatch.setattr(raster, 'read', noted)
    cli.run('predict', [str(checkpoint), str(path), '--out', str(tmp_path / 'out')])
    assert len(shapes) == 25
    assert max(height * width for height, width, _ in shapes) <= (4 * SIZE) ** 2
    with rasterio.open(tmp_path / 'out/masks/a.tif') as mask:
        assert mask.shape == (300, 300)


def test_where_there_is_no_data(checkpoint: Path, tmp_path: Path) -> None:
    pixels = picture(64, 80).clip(1)
    pixels[:, :20, 40:] = 0
    found = predict(checkpoint, geotiff(tmp_path / 'a.tif', pixels, nodata=0), out=tmp_path / 'out')['a']
    assert (found[:20, 40:] == 255).all() and (found == 255).sum() == 20 * 40
    with rasterio.open(tmp_path / 'out/masks/a.tif') as mask:
        np.testing.assert_array_equal(mask.dataset_mask() == 0, found == 255)
    shares = json.loads((tmp_path / 'out/shares.json').read_text())['images']['a']
    assert sum(shares.values()) == pytest.approx(100, abs=0.01)


def test_bands_and_sixteen_bits(checkpoint: Path, tmp_path: Path) -> None:
    """Of more than three bands the first; one is grey; 16 bits are the full range."""
    expected = predict(checkpoint, geotiff(tmp_path / 'a.tif', picture(64, 64)))['a']
    more = np.concatenate([picture(64, 64), np.full((1, 64, 64), 9, np.uint8)])
    for pixels in (more, picture(64, 64, np.uint16)):
        np.testing.assert_array_equal(predict(checkpoint, geotiff(tmp_path / 'a.tif', pixels))['a'], expected)
    grey = picture(64, 64, bands=1)
    of_three = predict(checkpoint, geotiff(tmp_path / 'a.tif', grey.repeat(3, axis=0)))['a']
    np.testing.assert_array_equal(predict(checkpoint, geotiff(tmp_path / 'a.tif', grey))['a'], of_three)


def test_what_is_a_geotiff(tmp_path: Path) -> None:
    Image.new('RGB', (40, 30)).save(tmp_path / 'plain.tif')
    (tmp_path / 'none.tif').write_bytes(b'II*\0')
    geotiff(tmp_path / 'a.tiff', picture(8, 8))
    geotiff(tmp_path / 'big.tif', picture(8, 8), BIGTIFF='YES')
    (tmp_path / 'a.png').write_bytes((tmp_path / 'a.tiff').read_bytes())
    found = {path.name for path in tmp_path.iterdir() if is_georeferenced(path)}
    assert found == {'a.tiff', 'big.tif'}


def test_what_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = geotiff(tmp_path / 'a.tif', picture(300, 300, np.float32))
    with pytest.raises(UserError, match=rf'^{path}: its pixels are float32\. Legal: uint8, uint16$'):
        predict(checkpoint, path, out=tmp_path / 'out')
    geotiff(path, picture(300, 300))
    path.write_bytes(path.read_bytes()[:150_000])
    with pytest.raises(UserError, match=f'^damaged image {path}: '):
        predict(checkpoint, path, out=tmp_path / 'out')
    assert [file.name for file in (tmp_path / 'out').rglob('*') if file.is_file()] == []
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(UserError, match=rf'^{path} is a GeoTIFF, which needs another package: pip install rasterio$'):
        predict(checkpoint, path)
