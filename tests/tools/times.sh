# How long each group of checks took. Sourced, not run. With OUTRIGGER_TIMES=FILE each group adds a line to this file, its name and
# seconds; `print_times FILE ALL` prints the sums, and ALL seconds for all of them: groups may run beside each other.
#
# shellcheck shell=bash

# add_time GROUP SECONDS
add_time() {
    if [[ -n ${OUTRIGGER_TIMES:-} ]]; then echo "$1 $2" >>"$OUTRIGGER_TIMES"; fi
}

# Passes cargo's output on, and times its test programs by the lines that announce them: the end-to-end tests, the conformance
# suite, and all others, which are the group `unit`.
add_times_of_tests() {
    local line group="" next begun=$SECONDS
    while IFS= read -r line; do
        printf '%s\n' "$line"
        case $line in
        *"Running "*"/e2e-"*")" | *"Running "*"/e2e_memory-"*")") next=e2e ;;
        *"Running "*"/conformance-"*")") next=conformance ;;
        *"Running "*"("*"/deps/"*")" | *"Doc-tests "*) next=unit ;;
        *) continue ;;
        esac
        if [[ $next == "$group" ]]; then continue; fi
        if [[ -n $group ]]; then add_time "$group" $((SECONDS - begun)); fi
        group=$next begun=$SECONDS
    done
    if [[ -n $group ]]; then add_time "$group" $((SECONDS - begun)); fi
}

# print_times FILE ALL: a line for each group, in the order of the first lines, and one for all.
print_times() {
    awk -v all="$2" '
        !($1 in sum) { order[++groups] = $1 }
        { sum[$1] += $2 }
        END {
            for (at = 1; at <= groups; at++) printf "time: %-12s %5d s\n", order[at], sum[order[at]]
            printf "time: %-12s %5d s\n", "all", all
        }' "$1"
}
