"""ONNX out: export, the drop-in contract, evaluation and report, deploy and rollback, reembed.

Where a line belongs; the first line of each module says what it is:

* commands: `command` (export, evaluate), `check_command` (check, embed), `bench_command`, `deploy_command`,
  `reembed_command`;
* a checkpoint becomes a file: `onnx_writer` with `folding`, `parity`, `onnx_metadata`, `sampling`; other shapes of it:
  `batch_axis`, `waveform` with `mel_graph` and `signals`; fewer bits: `quantise_writer` with `quantise_gate`,
  `int8_search`, `int8_graph`;
* what the app asks of a file: `contract`, `app_mel`, `audio_trial`;
* a file at work: `session`, `embedding`, `file_batch` with `in_order` and `vector_file`; its time and memory:
  `model_bench` with `bench_subject`, `system`;
* the judgement: `evaluation` with `run_folder` and `held_out`; figures `judgement`, `figures`, `rank_agreement`,
  `query_scores`, `bootstrap`, `duration_buckets`, `suspects`; text search `queries`, `text_encoder`, `text_figures`;
  words `criteria`, `verdict`; the page `report` with `report_tables`, `charts`, `templates/`;
* the app's folder: `deployment`, `evaluated`;
* a library's vectors: `reembed_stage` with `library`, `library_file`; the app's table `replacement` with
  `clap_table`, `vector_dump`.
"""
