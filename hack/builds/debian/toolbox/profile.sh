export TOOLS="jq less"
