"""Greedy transducer decoding of many utterances at once.

Letters: B batch, T encoder frames, J joint width, K frames looked at together.

Source:
    mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch/rnnt/decoder.py. Differs: all
    utterances in parallel; the prediction network runs only after a new label.
"""

import torch
from torch import Tensor

from modules.rnnt.transducer import State, Transducer

LOOK_AHEAD = 4  # frames: most give a blank, so one step can often skip several
# Asking a GPU whether all are done waits for it; a few superfluous steps cost less.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 8}


@torch.no_grad()
def greedy_decode(
    net: Transducer,
    encoded_BTJ: Tensor,
    frames_B: Tensor,
    *,
    max_symbols_per_frame: int = 30,
    max_symbols: int = 300,
) -> list[list[int]]:
    """Return each utterance's label ids: a blank advances by a frame, a label is kept.

    After ``max_symbols_per_frame`` labels decoding advances without a blank. An utterance with more
    than ``max_symbols`` labels starts no new frame, so it has at most their sum.
    """
    # Every utterance has its own frame position, so none waits for another. While it gives blanks
    # its label state stays the same, so the next frames can be looked at in the same step.
    B, T, _ = encoded_BTJ.shape
    device = encoded_BTJ.device
    row_B, ahead_K = torch.arange(B, device=device), torch.arange(LOOK_AHEAD, device=device)
    predicted_B1J, state = net.predict(frames_B.new_zeros(B, 0), start=True)
    time_B, in_frame_B, total_B = (torch.zeros_like(frames_B) for _ in range(3))
    labels_BL = frames_B.new_zeros(B, max_symbols + max_symbols_per_frame)
    step, every = 0, STEPS_BETWEEN_CHECKS.get(device.type, 1)
    while True:
        full_B = total_B > max_symbols
        active_B = (time_B < frames_B) & ~(full_B & (in_frame_B == 0))
        if step % every == 0 and not bool(active_B.any()):
            break
        step += 1
        time_BK = time_B[:, None] + ahead_K
        ahead_BKJ = encoded_BTJ[row_B[:, None], time_BK.clamp(max=T - 1)]
        best_BK = net.join(ahead_BKJ, predicted_B1J).argmax(-1)
        speaks_BK = (best_BK != net.num_labels) & (time_BK < frames_B[:, None])
        first_B = torch.where(speaks_BK.any(1), speaks_BK.int().argmax(1), LOOK_AHEAD)
        label_B = best_BK.gather(1, first_B.clamp(max=LOOK_AHEAD - 1)[:, None])[:, 0]
        # A full utterance may continue in its present frame, not in a later one.
        stops_B = active_B & full_B & (first_B > 0)
        emits_B = active_B & (first_B < LOOK_AHEAD) & ~stops_B
        in_frame_B = torch.where(first_B == 0, in_frame_B, 0) + emits_B
        column_B = torch.where(emits_B, total_B, labels_BL.shape[1] - 1)
        labels_BL[row_B, column_B] = torch.where(emits_B, label_B, labels_BL[:, -1])
        total_B = total_B + emits_B
        ended_B = in_frame_B == max_symbols_per_frame
        in_frame_B = torch.where(ended_B, 0, in_frame_B)
        moved_B = torch.where(active_B, time_B + first_B + ended_B, time_B)
        time_B = torch.where(stops_B, frames_B, moved_B)
        if device.type != "cpu" or bool(emits_B.any()):
            fresh_B1J, fresh_state = net.predict(torch.where(emits_B, label_B, 0)[:, None], state)
            predicted_B1J = torch.where(emits_B[:, None, None], fresh_B1J, predicted_B1J)
            state = _choose(emits_B, fresh_state, state)
    counts = total_B.tolist()
    return [row[:count] for row, count in zip(labels_BL.tolist(), counts, strict=True)]


def _choose(emits_B: Tensor, fresh: State, old: State) -> State:
    """Take the new state of utterances that gave a label, the old one of all others."""
    emits_1B1 = emits_B[None, :, None]
    return (
        torch.where(emits_1B1, fresh[0], old[0]),
        torch.where(emits_1B1, fresh[1], old[1]),
    )
