#!/usr/bin/env bash
# From synthetic slides to a report: the four commands, one after the other. Run again after an interruption, it goes on.
#   bash sample_data/demo.sh [FOLDER]     SLIDES and EPOCHS may be set in the environment
set -euo pipefail

out=${1:-demo}
here=$(dirname "$0")

echo "== slides"
python "$here/make_slides.py" "$out" --slides "${SLIDES:-20}"
echo "== sgcl tile"
sgcl tile "$out/slides" --out "$out/tiles" --mpp 2 --patch-size 128
echo "== sgcl pretrain"
# Small views, small batches and, in proportion, a small learning rate; gentle colours, since 500 patches are few.
sgcl pretrain "$out/tiles" --out "$out/run" --view 64 --corner 32 --batch 16 --lr 0.001 --epochs "${EPOCHS:-10}" \
  --crop-low 0.5 --corner-crop-low 0.4 --brightness 0.2 --contrast 0.2 --saturation 0.2 --hue 0.05
echo "== sgcl embed"
sgcl embed "$out/tiles" --encoder "$out/run" --out "$out/features"
echo "== sgcl evaluate"
sgcl evaluate "$out/features" --labels "$out/labels.csv" --out "$out/results"
echo "report: $out/results/report.html"
