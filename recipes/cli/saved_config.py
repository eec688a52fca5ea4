"""The resolved settings of a run, as its ``config.yaml`` has them."""

from __future__ import annotations

import yaml

from recipes.cli.parser import RecipeCLI

# Not in config.yaml: they say what to do now, not how to train.
NOT_SAVED = ("config", "ckpt_path", "force_resume", "print_config", "cost_per_hour")


def config_text(cli: RecipeCLI) -> str:
    """Return the resolved configuration as YAML that ``--config`` reads."""
    text = cli.parser.dump(cli.config, skip_unset=True, skip_validation=True)
    content = {k: v for k, v in yaml.safe_load(text).items() if k not in NOT_SAVED}
    content["model"]["net"] = cli.net.setting()  # with what the data fixed
    loggers = content.get("trainer", {}).get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if cli.config.ckpt_path and isinstance(logger, dict):
            logger.get("init_args", {}).pop("id", None)  # that W&B run is this resumed run's only
    return yaml.safe_dump(content, sort_keys=False)
