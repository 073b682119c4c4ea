"""What other object stores than S3 are asked, row by row: here their buckets are folders."""

from pathlib import Path
from typing import Any

import pytest
from composer.utils import file_helpers
from helpers.buckets import lay_out
from helpers.runs import TINY
from streaming.base.storage import download

from segrecipes.base import stores
from segrecipes.base.errors import MissingPathError, UserError
from segrecipes.base.stores import (
    SCHEMES,
    check_readable,
    local_copy,
    open_store,
    streaming_url,
    upload_folder,
    written,
)
from segrecipes.config.merge import load
from segrecipes.storage.convert import convert
from segrecipes.storage.shards import StreamingSegmentation

OTHERS = [scheme for scheme in SCHEMES if scheme != 's3']


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lay_out(tmp_path / 'buckets', monkeypatch)
    return tmp_path / 'buckets'


@pytest.mark.parametrize('scheme', OTHERS)
def test_a_file_goes_there_and_comes_back(scheme: str, buckets: Path, tmp_path: Path) -> None:
    url = f'{scheme}://bucket/runs'
    (tmp_path / 'best-ep1.pt').write_bytes(b'weights')
    store = open_store(url)
    assert store.names(url) == set()
    store.upload(tmp_path / 'best-ep1.pt', f'{url}/first/best-ep1.pt')
    store.write('runs/first/best-ep1.pt', f'{url}/first/best.pt.symlink')  # as Composer has it
    assert (buckets / scheme / 'bucket/runs/first/best-ep1.pt').read_bytes() == b'weights'
    assert store.names(url) == {'first/best-ep1.pt', 'first/best.pt.symlink'}
    assert store.names(f'{url}/fir') == set()
    for name in ('best-ep1.pt', 'best.pt'):
        copy = Path(local_copy(f'{url}/first/{name}'))
        assert (copy.name, copy.read_bytes()) == (name, b'weights')
    with pytest.raises(MissingPathError, match=f'^checkpoint={url}/none.pt: no such file$'):
        local_copy(f'{url}/none.pt', 'checkpoint')
    with pytest.raises(UserError, match=f'^{url}/first/best.pt is there already, and {scheme}:// is not overwritten'):
        store.delete(f'{url}/first/best.pt')


@pytest.mark.parametrize('scheme', OTHERS)
def test_a_conversion_goes_there(
    scheme: str, buckets: Path, synthetic_folder: Path, synthetic_mds: Path, tmp_path: Path
) -> None:
    url = f'{scheme}://bucket/owner/data'
    options: dict[str, Any] = {'name': 'synthetic', 'num_workers': 2, 'progress_bar': False}
    assert convert(synthetic_folder, url, **options) == {'train': 12, 'val': 5}
    convert(synthetic_folder, tmp_path / 'out', **options)
    there, here = buckets / scheme / 'bucket/owner/data', tmp_path / 'out'
    files = [sorted(path.relative_to(root) for path in root.rglob('*') if path.is_file()) for root in (there, here)]
    assert files[0] == files[1]
    assert all((there / file).read_bytes() == (here / file).read_bytes() for file in files[0])
    check_readable(f'{url}/train')
    with pytest.raises(MissingPathError, match=f'^{url}/test/index.json does not exist$'):
        check_readable(f'{url}/test')
    with pytest.raises(UserError, match=r'^not empty: '):
        convert(synthetic_folder, url, **options)
    with pytest.raises(UserError, match=r'is not overwritten: choose another place$'):
        convert(synthetic_folder, url, overwrite=True, **options)
    assert all((there / file).read_bytes() == (here / file).read_bytes() for file in files[0])


@pytest.mark.usefixtures('clean_shared_memory')
@pytest.mark.parametrize('scheme', OTHERS)
def test_shards_are_streamed_from_there(
    scheme: str, buckets: Path, synthetic_mds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Streaming's own download, of which here only the last step ends in a folder."""
    monkeypatch.setenv('AZURE_ACCOUNT_NAME', 'account')
    url = f'{scheme}://datasets/owner/name'
    upload_folder(synthetic_mds, url)
    asked: list[str] = []

    class Downloader(download.DOWNLOADER_MAPPINGS[scheme]):
        def __init__(self) -> None:
            pass

        def _download_file_impl(self, remote: str, local: str, timeout: float) -> None:
            asked.append(remote)
            open_store(url).download(remote.replace('azure://account/', 'azure://'), local)

    monkeypatch.setitem(download.DOWNLOADER_MAPPINGS, scheme, Downloader)
    dataset = StreamingSegmentation(
        path=url, local=str(tmp_path / 'cache'), split='val', make_sample=None, batch_size=1, num_canonical_nodes=1
    )
    found = [dataset.read(index) for index in range(dataset.size)]
    assert len({sample['uid'] for sample in found}) == 5
    assert asked[0] == f'{streaming_url(url)}/val/index.json'


def test_azure_as_streaming_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It takes the container from behind the account, where Composer has it in the account's place."""
    monkeypatch.setenv('AZURE_ACCOUNT_NAME', 'account')
    monkeypatch.setenv('AZURE_ACCOUNT_ACCESS_KEY', 'a2V5')
    downloader = download.AzureDownloader()
    asked: list[dict[str, str]] = []

    class Client:
        def get_blob_client(self, **given: str) -> Any:
            asked.append(given)
            return self

        def download_blob(self) -> Any:
            return self

        def readinto(self, file: Any) -> None:
            file.write(b'index')

    downloader._azure_client = Client()  # type: ignore[assignment]
    downloader.download(streaming_url('azure://container/some/index.json'), str(tmp_path / 'index.json'))
    assert asked == [{'container': 'container', 'blob': 'some/index.json'}]
    assert streaming_url('gs://bucket/a') == 'gs://bucket/a'


@pytest.mark.parametrize('scheme', OTHERS)
def test_a_folder_to_write_to(scheme: str, buckets: Path, tmp_path: Path) -> None:
    with written(f'{scheme}://bucket/owner/results') as folder:
        (folder / 'images').mkdir()
        (folder / 'images/a.jpg').write_bytes(b'a')
        (folder / 'scores.json').write_text('{}')
    assert open_store(f'{scheme}://bucket').names(f'{scheme}://bucket/owner') == {
        'results/images/a.jpg',
        'results/scores.json',
    }
    with written(str(tmp_path / 'here')) as folder:
        assert folder == tmp_path / 'here'


def test_what_fails_is_told_in_a_line(buckets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bucket: str, path: str) -> Any:
        raise RuntimeError('403 Forbidden\nfor this account')

    monkeypatch.setitem(file_helpers.BACKEND_TO_OBJECT_STORE_FACTORY, 'gs', refuse)
    with pytest.raises(UserError) as error:
        local_copy('gs://bucket/best.pt')
    assert str(error.value) == 'gs://bucket/best.pt cannot be reached: RuntimeError: 403 Forbidden for this account'
    assert not isinstance(error.value, MissingPathError)


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streaming reads each; Composer saves checkpoints to those that say so."""
    assert set(SCHEMES) <= set(download.DOWNLOADER_MAPPINGS)
    saving = {scheme for scheme, row in SCHEMES.items() if row.has_checkpoints}
    assert saving == set(SCHEMES) & set(file_helpers.BACKEND_TO_OBJECT_STORE_FACTORY)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(stores, 'find_spec', lambda module: asked.append(module))
    with pytest.raises(
        UserError, match=r'^out=azure://container/a needs another package: pip install apache-libcloud$'
    ):
        open_store('azure://container/a', 'out')
    assert asked == ['libcloud']


@pytest.mark.parametrize('url', ['ftp://bucket/a', 'gs:///a', 'gs://'])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UserError, match=f'^{url}'):
        open_store(url)


def test_checkpoints_to_the_hub_are_refused(tmp_path: Path) -> None:
    settings = [*TINY, f'train_dataset.path={tmp_path}', 'save_folder=hf://me/mine']
    with pytest.raises(
        UserError, match=r'^save_folder=hf://me/mine: Composer saves no checkpoints there\. .*push_to_hub'
    ):
        load('deeplabv3', settings)
    for url in ('gs://bucket/run', 's3://bucket/run', 'oci://bucket/run'):
        assert load('deeplabv3', [*settings, f'save_folder={url}'])[0].save_folder == url


def test_other_addresses_are_composers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('composer.utils.get_file', lambda url, file, **_: Path(file).write_text(url))
    assert Path(local_copy('https://host/best.pt')).read_text() == 'https://host/best.pt'
