rule reference:
    input:
        images="results/{study}/data/{dataset}/images.npy",
        record="results/{study}/data/{dataset}/dataset.json",
        weights=extractor_weights,
    output:
        statistics="results/{study}/metrics/{dataset}/reference.npz",
        features="results/{study}/metrics/{dataset}/features.npy",
        nearest="results/{study}/metrics/{dataset}/nearest.csv",
        record="results/{study}/metrics/{dataset}/reference.json",
    log:
        "results/{study}/logs/reference/{dataset}.log",
    benchmark:
        "results/{study}/benchmarks/reference/{dataset}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    threads: gpu_job_threads()
    resources:
        gpu=1,
        mem_mb=memory_mb("reference"),
        runtime=minutes("reference"),
    params:
        settings=settings("reference"),
    shell:
        'python -m noisesteps reference --config "$NOISESTEPS_CONFIG" '
        "--dataset {wildcards.dataset} --threads {threads} > {log:q} 2>&1"


rule score:
    input:
        images="results/{study}/samples/{dataset}/{schedule}/T{steps}{repetition}{sampler}/images.npy",
        record="results/{study}/samples/{dataset}/{schedule}/T{steps}{repetition}{sampler}/sample.json",
        statistics="results/{study}/metrics/{dataset}/reference.npz",
        reference_features="results/{study}/metrics/{dataset}/features.npy",
        reference="results/{study}/metrics/{dataset}/reference.json",
        real="results/{study}/data/{dataset}/images.npy",
        weights=extractor_weights,
    output:
        features="results/{study}/metrics/{dataset}/{schedule}/T{steps}{repetition}{sampler}/features.npy",
        nearest="results/{study}/metrics/{dataset}/{schedule}/T{steps}{repetition}{sampler}/nearest.csv",
        record="results/{study}/metrics/{dataset}/{schedule}/T{steps}{repetition}{sampler}/score.json",
    log:
        "results/{study}/logs/score/{dataset}/{schedule}/T{steps}{repetition}{sampler}.log",
    benchmark:
        "results/{study}/benchmarks/score/{dataset}/{schedule}/T{steps}{repetition}{sampler}.tsv"
    conda:
        "../../envs/noisesteps.yaml"
    threads: gpu_job_threads()
    resources:
        gpu=1,
        mem_mb=memory_mb("score"),
        runtime=minutes("score"),
    params:
        settings=settings("score"),
        coordinates=coordinates,
    shell:
        'python -m noisesteps score --config "$NOISESTEPS_CONFIG" {params.coordinates} '
        "--threads {threads} > {log:q} 2>&1"
