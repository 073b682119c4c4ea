"""The yaml files that a config is made of, by name, and what is in them."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segrecipes.base.errors import MissingPathError, UserError, unknown_name
from segrecipes.datasets.file import FILE

PACKAGE = Path(__file__).parents[1]
YAMLS = next((folder for folder in (PACKAGE / 'yamls', PACKAGE.parent / 'yamls') if folder.is_dir()), PACKAGE / 'yamls')

# Keys that name a file of a folder, which is merged under or over the yaml
FOLDERS = {'recipe_name': YAMLS / 'recipes', 'dataset': YAMLS / 'datasets'}


def available(key: str) -> dict[str, Path]:
    """The files that a key of ``FOLDERS`` may name."""
    return {file.stem: file for file in sorted(FOLDERS[key].glob('*.yaml'))}


def layer_file(key: str, name: str) -> Path:
    """The file that ``key=name`` means: a name in the key's folder, or a path; of a folder its ``dataset.yaml``.

    Raises:
        UserError: neither.
    """
    files = available(key)
    path = files.get(name, Path(name).expanduser())
    if key == 'dataset' and path.is_dir():
        return path / FILE
    if name not in files and path.suffix not in ('.yaml', '.yml'):
        raise unknown_name(key, name, [*files, 'null', 'path/to/file.yaml'])
    return path


def yaml_file(name: str) -> Path:
    """A yaml by its path or, where the package is installed without its checkout, by its name: ``deeplabv3``."""
    path = Path(name)
    if path.is_file() or path.parent not in (Path(), Path('yamls')):
        return path
    own = YAMLS / f'{path.name.removesuffix(".yaml")}.yaml'
    return own if own.is_file() else path


def read_yaml(path: str | Path) -> DictConfig:
    if not Path(path).is_file():
        raise MissingPathError(f'config file does not exist: {path}')
    try:
        content = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f'{path} is not a yaml file: {one_line(error)}') from error
    if not isinstance(content, DictConfig):
        raise UserError(f'{path} must hold keys and values at its top level')
    return content


def one_line(error: Exception) -> str:
    """What OmegaConf or yaml say, without the lines that name keys and types once more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join(line for line in lines if not line.startswith(('full_key:', 'object_type=', 'reference_type=')))
