"""The page docs/artefacts.md, made from the schemas: ``python -m sgcl_cli.artefacts.describe > docs/artefacts.md``."""

from __future__ import annotations

import sys

from sgcl_cli.artefacts import features, patches
from sgcl_cli.artefacts.store import Column, Schema

_HEAD = """# Artefacts

Outputs of the commands. The tables below are made by `make docs` from the schemas in `sgcl_cli/artefacts/` against which every
file is checked when it is written and when it is read. A file with its final name is complete.

```text
sgcl tile       patches/<slide_id>.h5  thumbnails/<slide_id>.jpg  overlays/<slide_id>.jpg  contours/<slide_id>.geojson
                index.html  slides.csv  failures.csv  run.json; patches in TRIDENT's tree with --layout trident
sgcl pretrain   last.pt  encoder.safetensors  encoder.json  metrics.jsonl  curves.png  slides.csv  run.json
                epoch-0001.pt and so on with --keep; failed_batch.npz after a non-finite loss
sgcl embed      <slide_id>.h5  slides.csv  failures.csv  run.json; with --layout clam in h5_files/, or in TRIDENT's tree
                --map maps/<slide_id>.png  maps.html  --query query_<slide_id>_<x>_<y>.{csv,png}
                --also pt_files/<slide_id>.pt  anndata/<slide_id>.h5ad  parquet/<slide_id>.parquet
                --slide-embedding slides_<pooling>.h5ad  slides_<pooling>.csv  slides_<pooling>.json
sgcl evaluate   metrics.json  metrics.csv  predictions.csv  predictions_patients.csv  splits.csv  audit.json
                figures/*.{png,svg,jpg}  attention/ and scores/<slide_id>.{csv,jpg}  report.html  run.json
                .cache/*.npz (finished fits, one per model and fold)
                models/card.json  models/<model>.safetensors (the fitted models, for sgcl predict)
  --compare     compare.json  compare.csv  compare.html  run.json
  --dense       dense.json  dense.csv  figures/*.{png,svg}  report.html  run.json
sgcl predict    predictions.csv  folds.csv  predictions.html  attention/ and scores/<slide_id>.{csv,jpg}  run.json
                at patch level maps/<slide_id>.{png,jpg} instead of attention/ and scores/
```

In `source` of the patches, `path` is how pixels were read: `direct` (JPEG tiles decoded one by one), `openslide`, `czi`
(pylibCZIrw), `zarr` (OME-Zarr), `plain` (PNG, JPEG, TIFF without tiles), or `none` (no pixels were stored); `path_why` is the
reason, with the result of the check against OpenSlide; `unreadable` lists x, y of patches that could not be decoded;
`overhanging` counts patches of a coordinate file of CLAM or TRIDENT that were left out because they extend beyond the slide.

Columns are stored contiguously. N is the number of patches, D the dimension of an embedding. Datasets and attributes marked with
a star may be absent. Links, virtual and external datasets are refused, and shapes are checked against the size of the file
before data are read.
"""

_TAIL = """## Checkpoints and encoders

`last.pt` (sgcl.checkpoint/1) contains tensors and plain values and is read with `weights_only=True`: the encoder and its card,
the projector, the banks and cluster labels, the optimiser, the position in the schedule, the settings, the id of the patches and
the slides. It contains no random states, because every draw is a function of the seed and the position. `epoch-0001.pt` and so on
are the checkpoints of the last epochs (`--keep`). None of them depends on the number of processes. `best.pt` contains only the
encoder, its card and the probe scores by which it was selected.

`failed_batch.npz` is written after a non-finite loss: patches (uint8), index, slide_id, step, epoch; no Python objects.

`encoder.safetensors` contains only the encoder, without a classifier: ResNets with torchvision's parameter names, vision
transformers with timm's. `encoder.json` has its architecture and preprocessing: input size, mean, std, mpp, patch size, embedding
size, and the SHA-256 of the weights; `pretrain_slides` are the slides of its training, including those of its initial weights,
and `probe_slides` those with labels that a probe used.

`metrics.jsonl` has one JSON object per line. A step: step, epoch (a real number), lr, ramp, loss (total, self, spatial, inner),
spatial_positives, propagated_positives, positive_similarity, negative_similarity, propagated_same_slide, spread, pair_similarity,
images_per_second, data_wait (seconds of waiting for decoded patches), memory_mib. An epoch: step and summary, the means of
these, effective_rank_v, effective_rank_h and, if one was run, probe. A refit of the clusters: step and clusters. Values that do
not apply are null or absent.

## Slide embeddings

`slides_<pooling>.csv`: `slide_id,n_patches`, then the dimensions, float32. `slides_<pooling>.h5ad` (AnnData): X float32 (slides,
dimensions); obs n_patches, mpp (of the patches, µm per pixel), of a model also fitted_on (the folds whose models were fitted
on the slide, separated by semicolons); var, of a model, fold, seed and unit; uns["sgcl"] as `slides_<pooling>.json`
(sgcl.slide_embeddings/1): id, pooling, vector, encoder, encoder_sha256, encoder_feed, encoder_mpp, and of a model its key,
target, folds, result (its id), card_sha256 and model_sha256. The pooling is `mean`, or the model's key and the first 8 digits of
model_sha256. The .json file is written last.

## Tables of an evaluation

`predictions.csv`, one row per model and slide or patch: `slide_id[,row],patient_id`, where `row` is the row in the feature file;
then `label,fold,model,predicted,p_<class>` for classification, `label,fold,model,predicted` for regression,
`time,event,fold,model,risk` for survival. `predictions_patients.csv`, one row per model and patient: `patient_id,rows` and the
same, averaged over its `rows` slides or patches (probabilities, values or log risks). A label, time or event that differs among
them is empty; targets of regression are averaged. `splits.csv`: `slide_id,patient_id,fold,split`, split train, val or test.
`metrics.csv`: `model,metric,scope,value,low,high,reason`.

## Models and predictions

`models/card.json` (sgcl.models/1): result (its id), level, task, target, classes, confidence, attention_model,
patients_known; features (dim, encoder, encoder_sha256, encoder_feed, mpp), which other features must match; folds (slides,
identities and patients that each was fitted on; `all` with `--refit`); scores (name, metrics with intervals, thresholds by
model); models (name, view of a slide, and by fold and seed the kind and settings). `models/<model>.safetensors` has the arrays
FOLD/SEED/NAME, where FOLD is the fold's position in the card: standardisation (mean, scale), weights, and `reference`, the
features that reference_rows of kNN index.

`predictions.csv`, one row per model and slide or patch: `slide_id[,row,x,y],model`, then `predicted,p_<class>,sd_<class>`, for
regression `predicted,sd_predicted`, for survival `risk,sd_risk` (log risk), and `folds`, the number of models averaged.
`folds.csv`: the same for each fold, with `fold` and `fitted_on`, which is yes if this fold was fitted on the slide or, with
`--labels`, on another slide of the patient. `attention/<slide_id>.csv`: `row[,x,y],attention`, which sums to 1;
`scores/<slide_id>.csv`: `row[,x,y]` and `p_<class>`, `predicted` or `risk` of each patch; `sgcl evaluate` writes both, too.

## Labels

The user's table `slide_id,label[,patient_id][,site][,split]`, separated by commas, semicolons or tabs. Ids are strings and keep
leading zeros. A suffix such as .svs or .h5 is tolerated. Without patient_id, every slide counts as a patient, and the report
says so. split: train, val or test.

## Files of other tools

`coords` has the attributes of CLAM (patch_size, patch_level, downsample, level_dim, downsampled_level_dim, name, save_path;
the level attributes only if a level has exactly the target resolution, or with `--layout clam`, where patch_size is in
pixels of that level) and of TRIDENT (patch_size, patch_size_level0, an integer,
level0_magnification, target_magnification, overlap, savetodir, level0_width, level0_height; the ratio of the magnifications is
exact, so the target's need not be an integer), and mpp_level0, mpp_target, mpp_actual, stride (pixels at the target),
patch_size_level0_xy and stride0 (level-0 pixels, exact). On slides with non-square pixels, stride0_xy and mpp_level0_xy (x, y)
are written instead of the attributes that hold only for square ones. Features are also read from CLAM's h5_files and
pt_files, TRIDENT's features_<encoder>, STAMP's `feats`, and plain .pt and .npy.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, _table(patches.SCHEMA), _table(features.SCHEMA), _TAIL])


def _table(schema: Schema) -> str:
    lines = [f"## {schema.format}", "", "| dataset | dtype, shape | meaning |", "|---|---|---|"]
    lines += [f"| {column.name}{_star(column)} | {_shape(column)} | {column.meaning} |" for column in schema.columns]
    lines += ["", "| attribute of the file | meaning |", "|---|---|"]
    lines += [f"| {a.name}{'' if a.required else ' *'} | {a.meaning} |" for a in schema.attributes]
    return "\n".join([*lines, ""])


def _star(column: Column) -> str:
    return "" if column.required else " *"


def _shape(column: Column) -> str:
    sizes = ", ".join(map(str, column.shape))
    return f"{' or '.join(column.dtypes)} ({sizes}{',' if len(column.shape) == 1 else ''})"


if __name__ == "__main__":
    sys.stdout.buffer.write(page().encode())
