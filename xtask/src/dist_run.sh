#!/bin/sh
# Runs the GPU tests and the bench of this folder on the first supported GPU, and prints one table at the end.
# Needs NVIDIA's driver, nothing else; uses compute-sanitizer if it is in PATH. Exit code 1 if anything failed.
#   run.sh [LOG_FOLDER]     folder for the full output, ./logs by default
cd "$(dirname "$0")" || exit 1
logs=${1:-logs}
mkdir -p "$logs" || exit 1
table=$logs/table
: >"$table"
failed=0

row() { printf '%-34s %-8s %5ss  %s\n' "$1" "$2" "$3" "$4" >>"$table"; }

# step NAME COMMAND...: runs, keeps the output, adds a row.
step() {
    name=$1
    shift
    log=$logs/$(echo "$name" | tr -c 'a-zA-Z0-9\n' _).log
    echo "== $name: $*"
    began=$(date +%s)
    if "$@" >"$log" 2>&1; then verdict=ok; else verdict=FAILED failed=1; fi
    took=$(($(date +%s) - began))
    # A test binary's closing line; or what compute-sanitizer counted.
    note=$(grep -h -E '^test result:|ERROR SUMMARY|RACECHECK SUMMARY' "$log" | sed 's/^=* *//; s/finished in.*//' | tr '\n' ' ')
    # Ignored tests are no proof.
    case $note in *"ok. 0 passed"*) verdict=SKIPPED failed=1 ;; esac
    row "$name" "$verdict" "$took" "$note"
    [ "$verdict" = ok ] || tail -n 30 "$log"
}

nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2>/dev/null | head -n 1
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
case $capability in
9.0) arch=sm_90a ;;
10.0) arch=sm_100a ;;
*) arch= ;;
esac

for test in gpu_* layer; do
    case $test in *bench*) continue ;; esac
    # What the emulator runs says nothing about this card.
    step "$test, built-in PTX" "./$test" --skip emulator-
done
if [ -n "$arch" ] && [ -f "kernels/$arch.cubin" ]; then
    # ptxas's code in place of the driver's.
    step "gpu_kernels, cubin" env "MEGAMOE_KERNEL_IMAGE=kernels/$arch.cubin" ./gpu_kernels --skip emulator- --skip rows=8192 --skip repeat
fi
if command -v compute-sanitizer >/dev/null 2>&1; then
    for tool in memcheck racecheck synccheck initcheck; do
        # Its table of mbarriers is too small for the rings of the GEMMs otherwise.
        more=; [ "$tool" = synccheck ] && more="--num-cuda-barriers 65536"
        # shellcheck disable=SC2086
        step "gpu_kernels, $tool" compute-sanitizer --tool "$tool" $more --error-exitcode 99 --print-limit 5 \
            ./gpu_kernels --skip emulator- shape/rows=129/
    done
else
    row "compute-sanitizer" "absent" 0 "not in PATH"
fi
for bench in gpu_*bench*; do
    step "$bench" "./$bench"
done

for bench in gpu_*bench*; do
    echo
    cat "$logs/$bench.log"
done
echo
cat "$table"
[ "$failed" = 0 ] && echo "all ok" || echo "FAILED"
exit "$failed"
