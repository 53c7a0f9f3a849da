#!/usr/bin/env bash
# From synthetic slides to a report: the four commands, one after the other. Run again after an interruption, it goes on.
#   bash sample_data/demo.sh [FOLDER]     SLIDES and EPOCHS may be set in the environment
# The table at its end compares the trained encoder with its untrained self and with mean colour, on the patches' tissue.
set -euo pipefail

out=${1:-demo}
here=$(dirname "$0")

echo "== slides"
python "$here/make_slides.py" "$out" --slides "${SLIDES:-20}"
echo "== sgcl tile"
sgcl tile "$out/slides" --out "$out/tiles" --mpp 3.5 --patch-size 64 --annotations "$out/annotations"
echo "== sgcl pretrain"
# Small views and batches, and gentle colours, since 650 patches are few; the next patches alone as neighbours, since a kind of
# tissue is only some 400 um wide on these slides.
sgcl pretrain "$out/tiles" --out "$out/run" --view 64 --corner 32 --batch 32 --epochs "${EPOCHS:-10}" \
  --crop-low 0.5 --corner-crop-low 0.4 --brightness 0.2 --contrast 0.2 --saturation 0.2 --hue 0.05 --radius 1.1
echo "== sgcl embed"
sgcl embed "$out/tiles" --encoder "$out/run" --out "$out/features/sgcl"
sgcl embed "$out/tiles" --encoder random:resnet18 --out "$out/features/untrained"
sgcl embed "$out/tiles" --encoder mean-colour --out "$out/features/mean-colour"
echo "== sgcl evaluate: slides, normal or tumour (14 patients are too few for an interval)"
sgcl evaluate "$out/features/sgcl" --labels "$out/labels.csv" --out "$out/results"
for encoder in sgcl untrained mean-colour; do
  echo "== sgcl evaluate: patches, which kind of tissue, $encoder"
  sgcl evaluate "$out/features/$encoder" --labels "$out/labels.csv" --level patch --folds 3 --out "$out/patches/$encoder"
done
echo "== sgcl evaluate --compare: the trained encoder, its untrained self, mean colour"
sgcl evaluate --compare "$out/patches/sgcl" "$out/patches/untrained" "$out/patches/mean-colour" --out "$out/comparison"
echo
echo "look at: $out/comparison/compare.html          the three encoders on patches, with intervals"
echo "         $out/patches/sgcl/report.html         the trained encoder's report"
echo "         $out/run/neighbours.png, curves.png   what it takes for alike, and how training went"
echo "         $out/tiles/index.html                 the slides with their tissue and patches"
