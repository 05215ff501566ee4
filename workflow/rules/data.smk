rule fetch:
    output:
        record="resources/{source}/{version}/fetched.json",
    log:
        "resources/{source}/{version}/fetch.log",
    benchmark:
        "resources/{source}/{version}/fetch.benchmark.tsv"
    retries: 1
    conda:
        "../../envs/noisesteps.yaml"
    resources:
        mem_mb=1000,
        runtime=720,
    params:
        settings=settings("fetch"),
    shell:
        'python -m noisesteps fetch --config "$NOISESTEPS_CONFIG" --source {wildcards.source} '
        "> {log:q} 2>&1"


rule preprocess:
    input:
        lambda wildcards: fetched(wildcards.dataset),
    output:
        images="results/{study}/data/{dataset}/images.npy",
        manifest="results/{study}/data/{dataset}/manifest.csv",
        rejected="results/{study}/data/{dataset}/rejected.csv",
        record="results/{study}/data/{dataset}/dataset.json",
    log:
        "results/{study}/logs/preprocess/{dataset}.log",
    benchmark:
        "results/{study}/benchmarks/preprocess/{dataset}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    threads: 2
    resources:
        mem_mb=memory_mb("preprocess"),
        runtime=minutes("preprocess"),
    params:
        settings=settings("preprocess"),
    shell:
        'python -m noisesteps preprocess --config "$NOISESTEPS_CONFIG" '
        "--dataset {wildcards.dataset} > {log:q} 2>&1"
