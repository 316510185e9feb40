"""Students, losses, streaming batches, the loop.

Where a line belongs; the first line of each module says what it is:

* commands: `command` (train), `__main__` (train under torchrun), `runs_command` with `run_table` and `run_row`;
* students: `students` lists them, `student` is what all are; `tinyclap`; `hybrid` and `hgnet` in a `hybrid_frame`;
  `mobile` with `pretrained` and `pretrained_norm`; parts `mobile_blocks`, `encoder`, `head`, `mel_norm` with
  `mel_statistics`;
* from the store to the device: `selection` and `split` choose tracks, `order` draws them, `batches` reads, `stream`
  reads ahead, `shift` and `augment` change segments;
* what is asked: `objective` with `anchors`; `metrics` are the figures;
* a run: `session` puts it together, `loop` runs it with `step`, `schedule`, `average`, `validation`, `stop`; several
  processes `ranks`; memory `heap`;
* what a run leaves: `run`, `checkpoint`, `history`, `curves`, `tensorboard`, `environment`; what it prints: `display`,
  `estimate`, `duration`.
"""
