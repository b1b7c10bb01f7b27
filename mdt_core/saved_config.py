"""The config.json that diffusers writes beside weights, without the entries that do not belong there."""

import json
from pathlib import Path


def tidy_config(file: Path) -> None:
    """Remove `_name_or_path`, a path of the machine that saved the model, from a saved config.json.

    From `AutoencoderTiny`'s also `block_out_channels`, which diffusers writes and then warns of when it reads it.
    """
    if not file.is_file():  # of a process that writes no configuration
        return
    config = json.loads(file.read_text("utf-8"))
    config.pop("_name_or_path", None)
    if config.get("_class_name") == "AutoencoderTiny":
        config.pop("block_out_channels", None)
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
