"""The configuration that diffusers writes beside weights, without what does not belong into a file."""

import json
from pathlib import Path


def tidy_config(file: Path) -> None:
    """Take out of a saved configuration where the weights were read from: a path of the machine that made them.

    And what `AutoencoderTiny` writes into its own, and then warns of when it reads it.
    """
    config = json.loads(file.read_text("utf-8"))
    config.pop("_name_or_path", None)
    if config.get("_class_name") == "AutoencoderTiny":
        config.pop("block_out_channels", None)
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
