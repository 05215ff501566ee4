# The rolling checkpoint lies in results/{study}/checkpoints and is declared nowhere:
# Snakemake deletes declared outputs before it starts a job again, and with them the
# progress. `noisesteps train` compares the checkpoint's fingerprint by itself, and so does
# `noisesteps sample`, which keeps its finished batches there.
rule train:
    input:
        images="results/{study}/data/{dataset}/images.npy",
        record="results/{study}/data/{dataset}/dataset.json",
    output:
        weights="results/{study}/models/{dataset}/{schedule}/T{steps}{repetition}/model.safetensors",
        history="results/{study}/models/{dataset}/{schedule}/T{steps}{repetition}/history.csv",
        record="results/{study}/models/{dataset}/{schedule}/T{steps}{repetition}/model.json",
    log:
        "results/{study}/logs/train/{dataset}/{schedule}/T{steps}{repetition}.log",
    benchmark:
        "results/{study}/benchmarks/train/{dataset}/{schedule}/T{steps}{repetition}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    threads: gpu_job_threads()
    resources:
        gpu=1,
        mem_mb=memory_mb("train"),
        runtime=minutes("train"),
    params:
        settings=settings("train"),
        coordinates=coordinates,
    shell:
        'exec python -m noisesteps train --config "$NOISESTEPS_CONFIG" {params.coordinates} '
        "--threads {threads} > {log:q} 2>&1"


rule sample:
    input:
        weights="results/{study}/models/{dataset}/{schedule}/T{steps}{repetition}/model.safetensors",
        record="results/{study}/models/{dataset}/{schedule}/T{steps}{repetition}/model.json",
    output:
        images="results/{study}/samples/{dataset}/{schedule}/T{steps}{repetition}{sampler}/images.npy",
        record="results/{study}/samples/{dataset}/{schedule}/T{steps}{repetition}{sampler}/sample.json",
    log:
        "results/{study}/logs/sample/{dataset}/{schedule}/T{steps}{repetition}{sampler}.log",
    benchmark:
        "results/{study}/benchmarks/sample/{dataset}/{schedule}/T{steps}{repetition}{sampler}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    threads: gpu_job_threads()
    resources:
        gpu=1,
        mem_mb=memory_mb("sample"),
        runtime=minutes("sample"),
    params:
        settings=settings("sample"),
        coordinates=coordinates,
    shell:
        'exec python -m noisesteps sample --config "$NOISESTEPS_CONFIG" {params.coordinates} '
        "--threads {threads} > {log:q} 2>&1"
