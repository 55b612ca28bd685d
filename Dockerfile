FROM python:3.13.12-slim
WORKDIR /app
COPY admission.py connection.py documents.py errors.py kubernetes.py log.py lookups.py metrics.py placement.py publish.py reload.py relocate.py relocation.py resolver.py server.py settings.py subnets.py tls.py webhook.py ./
RUN python -m compileall -q .
USER 65532:65532
EXPOSE 8080 8443
ENTRYPOINT ["python", "/app/server.py"]
