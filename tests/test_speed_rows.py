"""Rows of docs/speed.md come from the JSON files as they are."""

import json

from tests.speed_rows import main

CONTENT = {
    "benchmark": "minigo", "command": ["speed", "--synthetic", "--json", "x.json", "--steps", "4"],
    "revision": "8fde17e0a1b2", "device": "CPU, 2 threads", "synthetic": True,
    "scaled": ["search trees 64 -> 4 (1/16)", "batch size 4096 -> 4 (1/1024)",
               "steps of a round 50 -> 10 (one takes 25 s)"],
    "figures": {"samples_per_second": 11.9444, "ms_per_step_median": 334.91,
                "ms_per_step_p90": 1353.4, "lightning_over_plain": 1.054,
                "model_flops_per_second": 11.6e9, "batch_size": 4},
    "evaluation": {"ms_per_sample": 1850.2, "sample": "move"},
    "own": {"games_per_second": 0.0014},
    "published": {"best": 4.35, "accelerator": "A100", "share_of_best": 3.2e-4,
                  "share_of_limit": 0.365},
    "variants": [
        {"name": "bf16", "samples_per_second": 21.7, "loss_error": 9e-5, "gradient_error": 0.3,
         "right": None, "error": None},
        {"name": "compile", "samples_per_second": None, "loss_error": None, "gradient_error": None,
         "right": False, "error": "no compiler"},
    ],
}  # fmt: skip


def test_rows_have_the_figures_and_the_flags_that_gave_them(tmp_path, capsys):
    demo = {key: value for key, value in CONTENT.items() if key not in ("own", "published")}
    demo |= {"benchmark": "unet3d", "scaled": [], "variants": [], "evaluation": None}
    paths = [tmp_path / name for name in ("minigo.json", "unet3d.json")]
    for path, content in zip(paths, (CONTENT, demo), strict=True):
        path.write_text(json.dumps(content))
    (stopped := tmp_path / "ssd.json").write_text(json.dumps({"benchmark": "ssd", "scaled": []}))
    main([str(path) for path in (*paths, stopped)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == (
        "| minigo | CPU, 2 threads | `--synthetic --steps 4` | 8fde17e "
        "| search trees 64 -> 4 (1/16); 4096 -> 4 (1/1024) | 11.94; 0.0014 games/s "
        "| 334.9, 1,353.4 | 1.05 | 11.6 G | 1,850 ms/move | 36.5 % | 0.032 % of 4.35 (A100) |"
    )
    assert lines[3].startswith("| unet3d ")
    assert lines[3].endswith("| closed | 11.94 | 334.9, 1,353.4 | 1.05 | 11.6 G | - | - | - |")
    assert "| minigo | bf16 | 21.7 | 9.0e-05 | 3.0e-01 | unclear |" in lines
    assert "| minigo | compile | - | - | - | failed |" in lines
