#!/bin/sh
# Prints the subnets of some AWS accounts and regions, all of them or none:
#
#     AWS_ACCOUNTS='self arn:aws:iam::222222222222:role/subnets' AWS_REGIONS='eu-central-1 us-east-1' \
#         sh gather-subnets.sh > gathered.json
#
# It needs the AWS command line, version 1 or 2, and credentials where that looks for them.
#
#   AWS_ACCOUNTS  what to ask as, with spaces between: a role to assume, by its ARN; a profile of the
#                 AWS command line, by its name; or self, the credentials as they are. (self)
#   AWS_REGIONS   the regions, with spaces between. (the one that the AWS command line would ask)
#   AWS_FILTERS   filters of `aws ec2 describe-subnets`, with spaces between. By default without the
#                 default VPCs: every account has one, with the same addresses.
set -fu

accounts=${AWS_ACCOUNTS:-self}
regions=${AWS_REGIONS:-${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region)}}}
filters=${AWS_FILTERS:-Name=default-for-az,Values=false}

# EC2 throttles by account and region. Eight attempts are half a minute or more, as they wait a
# random time in between.
export AWS_RETRY_MODE="${AWS_RETRY_MODE:-standard}" AWS_MAX_ATTEMPTS="${AWS_MAX_ATTEMPTS:-8}"
export AWS_STS_REGIONAL_ENDPOINTS=regional AWS_PAGER=

# Seconds for a connection, and for an answer, which takes one or two. An endpoint that hangs is
# given up after eight attempts, and so after three and a half minutes. (By default, after nine.)
timeouts='--cli-connect-timeout 5 --cli-read-timeout 20'

# assume ROLE REGION: has the role's credentials in the environment.
assume() {
    # shellcheck disable=SC2086  # several options are several words
    credentials=$(
        aws sts assume-role $timeouts --role-arn "$1" --region "$2" \
            --role-session-name automatic-zone-placement --output text \
            --query 'Credentials.[AccessKeyId, SecretAccessKey, SessionToken]'
    ) || return
    # shellcheck disable=SC2086  # three words, for three variables
    set -- $credentials
    export AWS_ACCESS_KEY_ID="$1" AWS_SECRET_ACCESS_KEY="$2" AWS_SESSION_TOKEN="$3"
}

# gather ACCOUNT REGION: runs in a subshell, for the environment that it changes.
gather() (
    case $1 in
        self) set -- "$2" ;;
        arn:*) assume "$1" "$2" && set -- "$2" || return ;;
        *) set -- "$2" --profile "$1" ;; # which counts more than credentials in the environment
    esac
    # shellcheck disable=SC2086  # several options and filters are several words
    aws ec2 describe-subnets $timeouts --output json --filters $filters --region "$@"
)

fail() {
    echo "gather-subnets: $1" >&2
    # Whoever reads on, in a pipe perhaps, must not take a part for the whole.
    echo "incomplete: $1"
    exit 1
}

trap 'fail "stopped"' HUP INT TERM
[ -n "$regions" ] || fail "AWS_REGIONS is not set, and the AWS command line has no region either"
for account in $accounts; do
    for region in $regions; do
        gather "$account" "$region" || fail "no subnets of $account in $region, and so none at all"
    done
done
