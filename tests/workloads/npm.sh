# For the set-up of npm workloads: `. "$SUITE/npm.sh"`.

# Installs packages once for all runs; prints the directory that holds node_modules and the lock file.
# $1: a name for it. Others: packages with their versions.
kept_packages() {
    place=$KEPT/$1
    shift
    if [ "$(cat "$place/installed" 2>/dev/null)" != "$*" ]; then
        fresh=$place.$$
        mkdir -p "$fresh"
        (
            cd "$fresh"
            echo '{"name": "kept", "private": true}' >package.json
            npm_config_offline=false npm install --no-audit --no-fund --ignore-scripts "$@" >&2
            echo "$*" >installed
        ) || return
        rm -rf "$place"
        mv "$fresh" "$place"
    fi
    echo "$place"
}
