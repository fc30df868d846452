"""The readme as a package index shows it, where links need the project's address: that in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

REPOSITORY = tomllib.loads(Path("pyproject.toml").read_text())["project"]["urls"].get("Repository")

readme = Path("README.md").read_text(encoding="utf-8")
if REPOSITORY:
    readme = re.sub(r"(!\[[^]]*\]\()(?!\w+:|#)", rf"\1{REPOSITORY}/raw/main/", readme)
    readme = re.sub(r"(\]\()(?!\w+:|#)", rf"\1{REPOSITORY}/blob/main/", readme)
setup(long_description=readme, long_description_content_type="text/markdown")
