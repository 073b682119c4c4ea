"""The yaml files of this package, by name."""

from pathlib import Path

from segrecipes.base.errors import unknown_name

PACKAGE = Path(__file__).parents[1]
YAMLS = next((folder for folder in (PACKAGE / 'yamls', PACKAGE.parent / 'yamls') if folder.is_dir()), PACKAGE / 'yamls')

# Keys that name a file of a folder, which is merged under or over the yaml
FOLDERS = {'recipe_name': YAMLS / 'recipes', 'dataset': YAMLS / 'datasets'}


def available(key: str) -> dict[str, Path]:
    """The files that a key of ``FOLDERS`` may name."""
    return {file.stem: file for file in sorted(FOLDERS[key].glob('*.yaml'))}


def layer_file(key: str, name: str) -> Path:
    """The file that ``key=name`` means: a name in the key's folder, or a path.

    Raises:
        UserError: neither.
    """
    files = available(key)
    path = files.get(name, Path(name))
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
