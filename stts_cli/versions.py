"""Which versions of packages are installed."""

from importlib import metadata


def installed(*packages: str) -> dict[str, str]:
    """Return the version of each package that is installed, by its distribution's name, in the order given."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
