"""docs/artefacts.md, written from the schemas: ``python -m sgcl_cli.artefacts.describe > docs/artefacts.md``."""

from __future__ import annotations

from sgcl_cli.artefacts import features, patches
from sgcl_cli.artefacts.store import Column, Schema

_HEAD = """# Artefacts

What the five commands hand over. The tables below are written from the schemas in `sgcl_cli/artefacts/` (`make docs`), the
same ones by which every file is checked when it is written and when it is read. A file that has its final name is complete.

```text
sgcl tile       patches/<slide_id>.h5  thumbnails/<slide_id>.jpg  overlays/<slide_id>.jpg  contours/<slide_id>.geojson
                index.html  slides.csv  failures.csv  run.json; patches in TRIDENT's tree with --layout trident
sgcl pretrain   last.pt  encoder.safetensors  encoder.json  metrics.jsonl  curves.png  slides.csv  run.json
                epoch-0001.pt and so on with --keep; failed_batch.npz where a loss was not finite
sgcl embed      <slide_id>.h5  slides.csv  failures.csv  run.json; with --layout clam in h5_files/, or in TRIDENT's tree
                --map maps/<slide_id>.png  maps.html  --query query_<slide_id>_<x>_<y>.{csv,png}
                --also pt_files/<slide_id>.pt  anndata/<slide_id>.h5ad  parquet/<slide_id>.parquet
                --slide-embedding slides_<pooling>.h5ad  slides_<pooling>.csv  slides_<pooling>.json
sgcl evaluate   metrics.json  metrics.csv  predictions.csv  predictions_patients.csv  splits.csv  audit.json
                figures/*.{png,svg,jpg}  attention/ and scores/<slide_id>.{csv,jpg}  report.html  run.json
                .cache/*.npz (finished fits, one a model and fold)
                models/card.json  models/<model>.safetensors (the fitted models, for sgcl predict)
  --compare     compare.json  compare.csv  compare.html  run.json
  --dense       dense.json  dense.csv  figures/*.{png,svg}  report.html  run.json
sgcl predict    predictions.csv  folds.csv  predictions.html  attention/ and scores/<slide_id>.{csv,jpg}  run.json
                of patches maps/<slide_id>.{png,jpg} in their place
```

In `source` of the patches, `path` says how pixels were read: `direct` (JPEG tiles decoded one by one), `openslide`,
`plain` (PNG, JPEG, TIFF without tiles), or `none`;
`path_why` says why, with what the check against OpenSlide found; `unreadable` lists x, y of patches that could not be decoded;
`overhanging` counts patches of a peer's coordinate file that are left out because they hang over the slide's edge.

Columns are stored contiguous. N is the number of patches, D the size of an embedding. Datasets marked with a star may be
absent. Links, virtual and external datasets are refused, and shapes are checked against the file's size before anything is read.
"""

_TAIL = """## Checkpoints and encoders

`last.pt` (sgcl.checkpoint/1) holds tensors and plain values and is read with `weights_only=True`: the encoder and its card,
the projector, the banks and cluster labels, the optimiser, the position in the schedule, the settings, the id of the patches and
the slides. There are no random states in it: every draw is a function of the seed and the position. `epoch-0001.pt` and so on are
those of the last epochs (`--keep`). Nothing in them depends on the number of processes. `best.pt` has the encoder and its card
only, and the probe's scores that chose it.

`failed_batch.npz` is left where a loss was not finite: patches (uint8), index, slide_id, step, epoch; no Python objects.

`encoder.safetensors` holds the encoder alone, without a classifier: ResNets under torchvision's parameter names, vision
transformers under timm's. `encoder.json` says how to feed it: architecture, input size, mean, std, mpp, patch size, embedding
size, and the weights' sha256; `pretrain_slides` names what it has seen, the weights that it started from included, and
`probe_slides` those whose labels a probe used.

`metrics.jsonl` has one JSON object a line. A step: step, epoch (as a real number), lr, ramp, loss (total, self, spatial, inner),
spatial_positives, propagated_positives, positive_similarity, negative_similarity, propagated_same_slide, spread, pair_similarity,
images_per_second, data_wait (seconds that it waited for decoding), memory_mib. An epoch: step and summary, the means of
these, effective_rank_v, effective_rank_h and, where one ran, probe. A refit: step and clusters. What does not apply is null
or absent.

## Slide embeddings

`slides_<pooling>.csv`: `slide_id,n_patches`, then the dimensions, float32. `slides_<pooling>.h5ad` (AnnData): X float32 (slides,
dimensions); obs n_patches, mpp (of the patches, µm per pixel), of a model also fitted_on (the folds whose models were fitted
on the slide, separated by semicolons); var, of a model, fold, seed and unit; uns["sgcl"] as `slides_<pooling>.json`
(sgcl.slide_embeddings/1): id, pooling, vector, encoder, encoder_sha256, encoder_feed, encoder_mpp, and of a model its key,
target, folds, result (its id), card_sha256 and model_sha256. The pooling is `mean`, or the model's key and the first 8 digits of
model_sha256. The .json file is written last.

## Tables of an evaluation

`predictions.csv`, a row a model and reported slide or patch: `slide_id[,row],patient_id`, where `row` counts within the feature
file; then `label,fold,model,predicted,p_<class>` of classes, `label,fold,model,predicted` of measurements,
`time,event,fold,model,risk` of survival. `predictions_patients.csv`, a row a model and patient: `patient_id,rows` and the same,
the mean over its `rows` slides or patches of probabilities, values or log risks. A label, time or event that differs among
them is empty; measurements are averaged. `splits.csv`: `slide_id,patient_id,fold,split`, split train, val or test.
`metrics.csv`: `model,metric,scope,value,low,high,reason`.

## Models and predictions

`models/card.json` (sgcl.models/1): result (its id), level, task, target, classes, confidence, attention_model,
patients_known; features (dim, encoder, encoder_sha256, encoder_feed, mpp) that others must match; folds (slides, identities
and patients that each was fitted on; `all` with `--refit`); scores (name, metrics with intervals, thresholds by model);
models (name, view of a slide, and by fold and seed the kind and settings). `models/<model>.safetensors` has the arrays
FOLD/SEED/NAME with the fold's place in the card: standardisation (mean, scale), weights, and `reference`, the features among
which kNN's reference_rows are numbers.

`predictions.csv`, a row a model and slide or patch: `slide_id[,row,x,y],model`, then `predicted,p_<class>,sd_<class>`, of
measurements `predicted,sd_predicted`, of survival `risk,sd_risk` (log risk), and `folds`, how many models count. `folds.csv`:
the same of each fold, with `fold` and `fitted_on`, yes where that fold was fitted on the slide or, with `--labels`, on another of
its patient. `attention/<slide_id>.csv`: `row[,x,y],attention`, which sums to 1; `scores/<slide_id>.csv`: `row[,x,y]` and
`p_<class>`, `predicted` or `risk` of each patch; both by `sgcl evaluate` too.

## Labels, brought by you

`slide_id,label[,patient_id][,site][,split]`, comma, semicolon or tab separated. Ids are text: a leading zero stays. A suffix
such as .svs or .h5 is tolerated. Without patient_id a patient is a slide, and the report says so. split: train, val or test.

## Peers' files

`coords` carries the attributes of CLAM (patch_size, patch_level, downsample, level_dim, downsampled_level_dim, name, save_path;
the level attributes only where a level has exactly the target's resolution, or with `--layout clam`, which counts patch_size in
pixels of that level) and of TRIDENT (patch_size, patch_size_level0, a whole number,
level0_magnification, target_magnification, overlap, savetodir, level0_width, level0_height; the ratio of the magnifications is
exact, so the target's need not be a whole number), and mpp_level0, mpp_target, mpp_actual, stride (pixels at the target),
patch_size_level0_xy and stride0 (level-0 pixels, exact). Where a slide's pixels are oblong, stride0_xy and mpp_level0_xy (across,
down) stand instead of what would be wrong. Features are also read from CLAM's h5_files and
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
    print(page(), end="")
