#!/usr/bin/env bash
# Chat with the server in a terminal: bash chat.sh [URL]
#
# URL      the server, by default $API_URL or http://127.0.0.1:8080
# API_KEY  environment variable: sent as Bearer token
#
# Needs bash 4.2 or later, curl and jq. An empty line or the end of input ends the chat.
set -euo pipefail
shopt -s lastpipe # so that the loop at the end of a pipe can set variables

url=${1:-${API_URL:-http://127.0.0.1:8080}}
url=${url%/}

instruction="A chat between a curious human and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the human's questions.

### Human: Hello, Assistant.
### Assistant: Hello. How may I help you today?
"

# Send the JSON of stdin. The key goes through a file descriptor: arguments can be seen by everybody.
post() {
    curl --silent --show-error --no-buffer --header "Content-Type: application/json" \
        --config <(if [[ -n ${API_KEY:-} ]]; then printf 'header = "Authorization: Bearer %s"\n' "$API_KEY"; fi) \
        --data-binary @- "$url$1"
}

# An error in an answer or an event becomes a message and a failure.
checked='if .error then "chat.sh: \(.error.message)\n" | halt_error(1) else . end'

# Print the answer to $transcript as it comes; leave it in $answer.
complete() {
    answer=""
    jq -n --arg prompt "$transcript" --argjson n_keep "$n_keep" '{
        prompt: $prompt, n_keep: $n_keep, n_predict: 256,
        temperature: 0.2, top_k: 40, top_p: 0.9, stop: ["\n### Human:"],
        cache_prompt: true, stream: true
    }' | post /completion |
        jq --unbuffered -Rrj "select(test(\"^(data: )?{\")) | ltrimstr(\"data: \") | fromjson | $checked | .content" |
        while IFS= read -r -N 1 char; do
            printf '%s' "$char"
            answer+=$char
        done
    echo
}

n_keep=$(jq -n --arg content "$instruction" '{content: $content}' | post /tokenize | jq "$checked | .tokens | length")
transcript=$instruction
while IFS= read -r -e -p "> " question && [[ -n $question ]]; do
    transcript+="### Human: $question"$'\n'"### Assistant:"
    complete
    transcript+="$answer"$'\n'
done
