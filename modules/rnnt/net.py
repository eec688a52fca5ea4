"""The RNN transducer of MLPerf Training v1.0: an LSTM encoder, an LSTM over labels and a joint.

Letters: B batch, S input frames (30 ms), T encoder frames (60 ms), U labels, J joint width,
V outputs (labels and, last, blank).
"""

from typing import Any

import torch
from torch import Tensor, nn

from modules.rnnt.half_lstm import run_half

State = tuple[Tensor, Tensor]


class DropoutLSTM(nn.Module):
    """Unidirectional LSTM layers with dropout between them and after the last.

    ``init_scale`` multiplies every initial weight and bias; the forget gates' input biases become
    ``init_scale``, their hidden biases 0. ``half`` computes the layers in float16.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        dropout: float,
        init_scale: float,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.half_precision = half
        between = dropout if num_layers > 1 else 0.0
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, dropout=between, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        forget = slice(hidden_size, 2 * hidden_size)
        with torch.no_grad():
            for name, weight in self.lstm.named_parameters():
                if name.startswith("bias"):
                    weight[forget] = 1.0 if name.startswith("bias_ih") else 0.0
                weight.mul_(init_scale)

    def forward(self, x_BTF: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Return the last layer's outputs and the state of all layers."""
        # torch casts cuDNN's LSTMs to float16 under any autocast on GPUs, bfloat16's too, where
        # gradients are not scaled and would underflow. So they keep their weights' precision.
        with torch.autocast(x_BTF.device.type, enabled=False):
            if self.half_precision:
                y_BTF, state = run_half(self.lstm, x_BTF, state)
            else:
                y_BTF, state = self.lstm(x_BTF.to(next(self.lstm.parameters()).dtype), state)
        return self.dropout(y_BTF), state


class RNNT(nn.Module):
    """RNN transducer; the defaults are the closed division's, 49,006,080 parameters.

    Args:
        input_size: Features of a spliced frame.
        num_labels: Labels without blank; the blank's id is this number.
        encoder_size: Width of the encoder's LSTMs.
        pre_layers: LSTM layers before the time stacking.
        post_layers: LSTM layers after it.
        stack: Neighbouring frames concatenated in between.
        prediction_size: Width of the label embedding and of the prediction network.
        prediction_layers: LSTM layers of the prediction network.
        joint_size: Width of the joint.
        encoder_dropout: Dropout in the encoder.
        prediction_dropout: Dropout in the prediction network.
        joint_dropout: Dropout in the joint.
        init_scale: Multiplies the initial LSTM weights and biases only.
        half_lstms: Compute the LSTMs in float16, with weights and gradients in float32, for GPUs;
            their gradients are scaled by themselves, so any precision of the trainer will do.

    Source:
        mlcommons/training @ 9947bdf2, rnn_speech_recognition/pytorch/rnnt/model.py. Differs:
        batch first; ``encode`` and ``predict`` include the projections into the joint, so that
        decoding computes them once per frame or label. The function is the same.
    """

    def __init__(
        self,
        *,
        input_size: int = 240,
        num_labels: int = 1023,
        encoder_size: int = 1024,
        pre_layers: int = 2,
        post_layers: int = 3,
        stack: int = 2,
        prediction_size: int = 512,
        prediction_layers: int = 2,
        joint_size: int = 512,
        encoder_dropout: float = 0.1,
        prediction_dropout: float = 0.3,
        joint_dropout: float = 0.3,
        init_scale: float = 0.5,
        half_lstms: bool = False,
    ) -> None:
        super().__init__()
        self.num_labels, self.stack, self.init_scale = num_labels, stack, init_scale
        common: dict[str, Any] = {"init_scale": init_scale, "half": half_lstms}
        encoder = {"dropout": encoder_dropout, **common}
        self.pre_rnn = DropoutLSTM(input_size, encoder_size, pre_layers, **encoder)
        self.post_rnn = DropoutLSTM(stack * encoder_size, encoder_size, post_layers, **encoder)
        self.pred_embed = nn.Embedding(num_labels, prediction_size)
        self.dec_rnn = DropoutLSTM(
            prediction_size,
            prediction_size,
            prediction_layers,
            dropout=prediction_dropout,
            **common,
        )
        self.joint_enc = nn.Linear(encoder_size, joint_size)
        self.joint_pred = nn.Linear(prediction_size, joint_size)
        self.joint_dropout = nn.Dropout(joint_dropout)
        self.joint_net = nn.Linear(joint_size, num_labels + 1)

    def encode(self, features_BSF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode speech for the joint.

        Args:
            features_BSF: Spliced features.
            lengths_B: int64 frames of each utterance, in ``[1, S]``.

        Returns:
            encoded_BTJ and the int64 number of encoder frames of each, rounded up.
        """
        hidden_BSE, _ = self.pre_rnn(features_BSF)
        B, S, E = hidden_BSE.shape
        if missing := -S % self.stack:  # a compiled pad by 0 frames may keep another layout
            hidden_BSE = nn.functional.pad(hidden_BSE, (0, 0, 0, missing))
        stacked = hidden_BSE.reshape(B, -1, self.stack * E)
        encoded_BTE, _ = self.post_rnn(stacked)
        return self.joint_enc(encoded_BTE), (lengths_B + self.stack - 1) // self.stack

    def predict(
        self, labels_BU: Tensor, state: State | None = None, *, start: bool = False
    ) -> tuple[Tensor, State]:
        """Encode the labels so far for the joint.

        Args:
            labels_BU: int64 labels in ``[0, num_labels)``; U may be 0 with ``start``.
            state: State after the preceding labels; None before the first.
            start: Put the start of the sequence, a vector of zeros, before the labels.

        Returns:
            predicted (B, U or, with ``start``, U + 1, J) and the state after the last label.
        """
        embedded_BUP = self.pred_embed(labels_BU)
        if start:
            embedded_BUP = nn.functional.pad(embedded_BUP, (0, 0, 1, 0))
        hidden_BUP, state = self.dec_rnn(embedded_BUP, state)
        return self.joint_pred(hidden_BUP), state

    def join(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Compute the logits of a lattice node.

        Args:
            encoded: From ``encode``, (..., J).
            predicted: From ``predict``, (..., J); the leading axes broadcast.

        Returns:
            Logits (..., V), blank last.
        """
        return self.joint_net(self.joint_dropout(torch.relu(encoded + predicted)))

    def tensor_names(self) -> tuple[str, ...]:
        """Return the reference's names of the parts that have weights."""
        return tuple(name for name, child in self.named_children() if list(child.parameters()))
