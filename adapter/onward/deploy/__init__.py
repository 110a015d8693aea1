"""From an app to what stands in an AWS account: `plan.py` says which resources, `sam.py` and `cdk.py` write them down,
`package.py` makes the zip. Nothing here is imported by a step."""
